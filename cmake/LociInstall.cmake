# What `cmake --install` gives: headers, the libraries and a package that find_package(loci) finds. The component `runtime`
# is what the Python wheel holds: libraries and the program.
include(CMakePackageConfigHelpers)
set(loci_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/loci)

# The public headers. What they include is among them; each compiles alone (tests/test_package.py).
set(loci_public_headers
  loci/base/check.h loci/base/checksum.h loci/base/config.h loci/base/config_fields.h loci/base/cpu_level.h
  loci/base/durable_file.h loci/base/mapped_file.h loci/base/paths.h loci/base/progress.h loci/base/ram_modules.h
  loci/base/random.h loci/base/random_sequence.h loci/base/stop_signal.h loci/base/utf8.h loci/base/wilson.h
  loci/data/epoch_order.h loci/data/file_inventory.h loci/data/image/augment.h loci/data/image/idx_file.h
  loci/data/image/image_batches.h loci/data/image/image_file.h loci/data/image/image_folder.h loci/data/image/image_set.h
  loci/data/poses/pose_metrics.h loci/data/poses/pose_sequence.h loci/data/poses/rotation.h loci/data/poses/spatial_correlation.h
  loci/data/procedural/room_data.h loci/data/procedural/room_scene.h loci/data/ram/curriculum.h loci/data/ram/ram_tape.h loci/data/ram/ram_tasks.h
  loci/data/text/batches.h loci/data/text/masking.h loci/data/text/text_folder.h loci/data/text/token_cache.h
  loci/data/text/token_span.h loci/data/text/tokenizer.h
  loci/models/autoencoder.h loci/models/generate.h loci/models/load_state.h loci/models/map_memory_options.h
  loci/models/pose_loss.h loci/models/posenet.h loci/models/resnet.h loci/models/resnet_options.h
  loci/models/slot_summariser.h loci/models/trained_parameters.h loci/models/transformer_lm.h loci/models/transformer_lm_options.h
  loci/models/video_resnet.h loci/models/video_resnet_options.h loci/models/vocabulary_loss.h
  loci/nn/batch_normalised.h loci/nn/block_context.h loci/nn/channel_norm.h loci/nn/evaluation_scope.h loci/nn/initialise.h
  loci/nn/machine/neural_ram.h loci/nn/memory/calibrate.h loci/nn/memory/convolution_query_net.h
  loci/nn/memory/flat_key_memory.h
  loci/nn/memory/memory_formula.h loci/nn/memory/memory_layer.h loci/nn/memory/memory_map.h
  loci/nn/memory/memory_slot.h
  loci/nn/memory/ngram_collisions.h loci/nn/memory/ngram_memory.h loci/nn/memory/ngram_rows.h
  loci/nn/memory/ngram_slot.h loci/nn/memory/peer_memory.h loci/nn/memory/product_key_memory.h
  loci/nn/memory/query_net.h loci/nn/memory/query_reservoir.h loci/nn/memory/reinitialise.h
  loci/nn/memory/side_memory.h loci/nn/memory/sub_key_counts.h loci/nn/memory/table_layer.h
  loci/nn/memory/vector_quantiser.h loci/nn/relation/criss_cross.h loci/nn/relation/efficient_attention.h
  loci/nn/relation/global_context.h loci/nn/relation/non_local.h loci/nn/relation/non_local_diagnosis.h
  loci/nn/relation/non_local_layout.h loci/nn/relation/non_local_options.h loci/nn/small/addressing.h loci/nn/small/binary_layers.h
  loci/nn/small/fold_norm.h loci/nn/small/reel_layers.h loci/nn/small/retrieval_memory.h loci/nn/small/shift_norm.h loci/nn/small/slots.h loci/nn/small/straight_through.h loci/nn/small/subset_backprop.h
  loci/nn/small/view_attention.h loci/nn/token_mask.h
  loci/nn/small/depth_layers.h loci/nn/small/ode_block.h loci/nn/small/ode_method.h loci/nn/small/ode_solve.h
  loci/nn/small/ode_solver.h
  loci/ops/batch_norm/batch_norm.h loci/ops/batch_product/batch_product.h loci/ops/binary_linear/binary_linear.h
  loci/ops/few_linear/few_linear.h loci/ops/half_norm/half_norm.h
  loci/ops/ngram_hash/ngram_hash.h loci/ops/non_local_concat/non_local_concat.h
  loci/ops/non_local_dot/non_local_dot.h loci/ops/non_local_softmax/non_local_softmax.h
  loci/ops/product_key_search/product_key_search.h
  loci/ops/product_key_select/product_key_select.h loci/ops/ram_step/ram_step.h loci/ops/ram_unroll/ram_unroll.h
  loci/ops/random_basis/random_basis.h
  loci/ops/reels/reels.h loci/ops/row_order/row_order.h loci/ops/row_sum/row_sum.h loci/ops/row_update/row_rule.h
  loci/ops/row_update/row_update.h loci/ops/table_read/table_project.h loci/ops/table_read/table_read.h
  loci/ops/usage_add/usage_add.h loci/ops/nearest_power/nearest_power.h
  loci/ops/straight_through_sign/straight_through_sign.h
  loci/optim/dense_optimizer.h loci/optim/optimizer_set.h loci/optim/parameter_rules.h loci/optim/row_optimizer.h
  loci/optim/random_bases.h loci/optim/random_bases_options.h loci/optim/schedule.h
  loci/optim/seed_adam.h
  loci/program/assemble.h loci/program/circuit.h loci/program/export_cpp.h loci/program/export_dot.h
  loci/program/export_text.h loci/program/instances.h loci/program/program_file.h loci/program/prune.h
  loci/program/ram_program.h loci/program/verify.h
  loci/distributed/collectives.h loci/distributed/exchange_cost.h loci/distributed/process_group.h
  loci/table/held_table.h loci/table/local_table.h loci/table/mapped_table.h loci/table/mapped_tensor.h
  loci/table/page_fetch.h loci/table/page_memory.h loci/table/quantise.h loci/table/read_background.h
  loci/table/read_observer.h loci/table/row_gradient.h loci/table/row_marks.h loci/table/row_patch.h loci/table/row_store.h
  loci/table/safetensors.h loci/table/sharded_table.h loci/table/table.h loci/table/table_maker.h loci/table/usage.h loci/table/usage_alarm.h
  loci/tasks/all.h loci/tasks/class_accuracy.h loci/tasks/discretise.h loci/tasks/image_classification.h loci/tasks/image_data.h
  loci/tasks/language_model.h loci/tasks/memory_task.h loci/tasks/memory_watch.h loci/tasks/non_local_watch.h
  loci/tasks/ram_evaluation.h
  loci/tasks/ram_seeds.h loci/tasks/reinitialisation.h loci/tasks/ram_task.h
  loci/train/checkpoint.h loci/train/checkpoint_folder.h loci/train/comparison.h loci/train/experiment.h
  loci/train/measure.h loci/train/memory_check.h loci/train/metrics_log.h loci/train/precision.h
  loci/train/read_ahead.h loci/train/recipe.h loci/train/run_directory.h loci/train/summary.h
  loci/train/start_weights.h loci/train/table_checkpoint.h loci/train/table_home.h loci/train/table_parts.h
  loci/train/task.h loci/train/tensor_file.h
  loci/train/train_options.h loci/train/train_step.h loci/train/trainer.h loci/train/version.h)
foreach(header ${loci_public_headers})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder})
endforeach()
install(TARGETS loci loci_ops EXPORT lociTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT lociTargets NAMESPACE loci:: DESTINATION ${loci_package_dir})

configure_package_config_file(cmake/lociConfig.cmake.in ${PROJECT_BINARY_DIR}/lociConfig.cmake
  INSTALL_DESTINATION ${loci_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lociConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lociConfig.cmake ${PROJECT_BINARY_DIR}/lociConfigVersion.cmake
  cmake/LociTorch.cmake DESTINATION ${loci_package_dir})

# The Python package compares this with the torch that it finds, before it loads the library.
file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/libloci_ops.torch CONTENT "${LOCI_TORCH_VERSION}\n")
install(FILES ${PROJECT_BINARY_DIR}/libloci_ops.torch DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
