#include "loci/program/reference_programs.h"

#include <map>
#include <string>

#include "loci/data/ram/ram_tasks.h"
#include "loci/program/assemble.h"

namespace loci {
namespace {

const std::map<std::string_view, std::string_view>& texts() {
  static const std::map<std::string_view, std::string_view> all = {
      {"access", R"(
         r0z:  INC(READ); r0=INC
       | else: WRITE(ZERO,READ); stop)"},
      {"increment", R"(
         r1z:  INC(READ); ADD(r0,ONE); EQ(READ,ZERO); WRITE(r0,INC); r0=ADD; r1=EQ
       | else: stop)"},
      {"copy", R"(
         r2nz: stop
       | r0z:  DEC(READ); r1=DEC; r0=ONE
       | else: INC(r0); ADD(r0,r1); EQ(r0,r1); WRITE(ADD,READ); r0=INC; r2=EQ)"},
      {"reverse", R"(
         r2nz: stop
       | r0z:  ADD(READ,READ); DEC(ADD); r1=DEC; r0=ONE
       | else: INC(r0); SUB(r1,r0); EQ(INC,SUB); WRITE(SUB,READ); r0=INC; r2=EQ)"},
      {"swap", R"(
         r0z:  r1=READ; r0=ONE
       | r1z:  WRITE(r2,r3); stop
       | r2z:  r2=READ; r0=r1
       | r3z:  r3=READ; r0=r2
       | else: WRITE(r1,READ); r1=ZERO)"},
      {"permutation", R"(
         r3nz: stop
       | r0z:  r1=READ; r0=ONE
       | r2z:  ADD(READ,r1); r2=ADD
       | else: READ r2; INC(r0); EQ(INC,r1); WRITE(r0,READ); r0=INC; r2=ZERO; r3=EQ)"},
      {"listk", R"(
         r0z:      r2=READ; r0=ONE
       | r3nz,r2z: r2=READ; r0=TWO
       | r3nz:     WRITE(READ,r2); stop
       | r2nz:     r1=READ; r0=r2; r2=ZERO
       | r1nz:     DEC(r1); r0=READ; r1=DEC
       | else:     INC(r0); r0=INC; r3=ONE)"},
      {"listsearch", R"(
         r0z:       r2=READ; r0=ONE
       | r1z:       INC(r2); r1=READ; r0=INC; r2=ZERO
       | r3nz,r2nz: r1=r0; r0=TWO; r2=ZERO
       | r3nz:      WRITE(READ,r1); stop
       | r2z:       DEC(r0); EQ(READ,r1); r3=EQ; r0=DEC; r2=ONE
       | else:      INC(READ); r0=INC; r2=ZERO)"},
      {"merge", R"(
         r0z:  r0=READ; r1=ONE
       | r2z:  READ r1; r1=READ; r2=TWO
       | r3z:  READ r2; r2=READ; r3=ONE
       | r4z:  READ r1; INC(r1); r4=READ; r1=INC
       | r5z:  INC(r0); ADD(r2,ONE); LT(r4,READ); MIN(READ,r4); WRITE(r2,MIN); r0=INC; r2=ADD; r3=READ; r5=LT
       | else: READ r1; INC(r1); ADD(r2,ONE); LT(READ,r3); MIN(READ,r3); WRITE(r2,MIN); r1=INC; r2=ADD; r4=READ;
               r5=LT)"},
      {"walkbst", R"(
         r0z,r1z: r0=READ; r1=TWO
       | r0z,r2z: READ r3; r2=READ; r3=ONE
       | r0z:     READ r3; WRITE(READ,r2); stop
       | r2z:     READ r1; INC(r0); ADD(INC,READ); r2=ADD
       | else:    READ r2; INC(r1); r3=r0; r0=READ; r1=INC; r2=ZERO)"},
  };
  return all;
}

}  // namespace

RamProgram reference_program(std::string_view task) {
  return assemble(static_cast<int>(ram_task(task).registers), texts().at(task));
}

}  // namespace loci
